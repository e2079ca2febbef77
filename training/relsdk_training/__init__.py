"""Training of relsdk models: encoders, score models, students and query towers."""
