"""The Learn page: lessons that ask first and let the engine answer."""
