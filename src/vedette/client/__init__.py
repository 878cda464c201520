"""What an agent's or analyst's process imports: MLflow entry points and the public functions."""
