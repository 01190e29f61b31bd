"""A registered model -> masks, scores, report."""

from pathlib import Path

SERVING_FILE = Path(__file__).with_name("serving.py")
"""What MLflow runs to serve a registered model ("models from code")."""
