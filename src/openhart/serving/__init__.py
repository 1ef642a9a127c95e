"""The service: an engine that batches requests, and the OpenAI Images protocol on top of it."""
