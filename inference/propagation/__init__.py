"""Parts of propagation: the job of one video, the passes over it, outputs, and many videos."""
