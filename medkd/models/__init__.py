"""models: teachers, students, their weights and what they cost."""
