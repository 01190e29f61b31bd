"""For people: estimate before a build; result, contact sheet and MLflow run after it."""
