"""The scoring rules of GenEval, apart from any particular detector."""
