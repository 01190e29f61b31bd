"""The MLflow store: runs, model versions, scores, the gate, promotion, lineage, export."""
