"""The stream: simulator, broker, consumer, sinks and dead letters."""
