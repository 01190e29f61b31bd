"""J, F, IoU and PCK, computed as the official tools compute them."""
