"""What exists: settings schema and validation, model, diff, the View that routing reads."""
