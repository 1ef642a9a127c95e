"""A corpus of captioned pictures drawn from emoji packages: single things, and scenes of several."""
