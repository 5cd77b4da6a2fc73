"""The main job: quantize a model and report what that did, layer by layer."""
