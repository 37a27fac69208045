"""The REST API: endpoint, service, store; one folder a domain."""
