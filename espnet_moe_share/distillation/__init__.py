"""Knowledge distillation from a trained dense model."""
