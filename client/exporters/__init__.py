"""A run's metrics and record handed to other programs: TensorBoard's event files, MLflow's tracking server."""
