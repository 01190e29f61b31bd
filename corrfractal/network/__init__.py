"""The network (sections III-B to III-D): backbone, restricted attention, fractal chains,
multi-density correspondence; in training (``model``) and in use (``tracker``)."""
