"""The real-text study: a real small target and published responses of real models."""
