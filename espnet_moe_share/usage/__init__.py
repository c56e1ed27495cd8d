"""What a trained model's experts do: who is chosen, when, for what, and whether it matters."""
