"""What tests are built from: actors, fakes, builders, the script runner."""
