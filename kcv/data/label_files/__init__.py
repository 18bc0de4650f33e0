"""Label files: tables whose rows name an image file, its label and perhaps its split."""
