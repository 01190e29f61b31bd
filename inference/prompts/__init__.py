"""Where the objects are, as given by the user: masks, boxes, key points."""
