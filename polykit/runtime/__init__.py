"""What plugins stand on: capture, masking, objectives, training, seeds, devices, run store."""
