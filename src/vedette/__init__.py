"""Vedette: a self-hosted quality monitor for GenAI agents in production."""

__version__ = "0.1.0"
