"""Take OTLP and MLflow trace writes, validate them, make them durable (journal), acknowledge."""
