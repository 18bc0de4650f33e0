"""Runs a Keras model on torch: device, precision and native execution of its layers."""
