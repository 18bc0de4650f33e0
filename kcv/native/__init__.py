"""How a Keras model runs on torch: where, in which number format, and (as it grows) at which speed."""
