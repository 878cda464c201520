"""The only room that knows MLflow's server internals: the store plugin, the app, start-up."""
