"""Estafeta trains machine-learning models on AWS Lambda with no server."""
