"""The MLflow room: the store, runs, registered model versions, scores, gate, promotion, lineage.

``names`` lists everything that is stored in MLflow. ``store`` checks a store without MLflow,
``connection`` opens it with MLflow.
"""
