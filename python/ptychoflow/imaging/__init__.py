"""Arrays to pictures' geometry: streaming stitching, alignment, regions."""
