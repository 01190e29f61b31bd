"""What people read about a build: estimate before, contact sheet and MLflow run after."""
