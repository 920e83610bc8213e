"""Builders of sample transformer models as ONNX files, without a deep-learning framework."""
