"""What is measured on each broker: contenders, sizes and targets."""
