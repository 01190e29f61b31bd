"""J, F, IoU and PCK, as the official tools compute them."""
