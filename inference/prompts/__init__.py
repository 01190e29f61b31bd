"""What the user marks: masks, boxes, key points."""
