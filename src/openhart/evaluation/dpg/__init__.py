"""The scoring rules of DPG-Bench, apart from any particular model that answers questions."""
