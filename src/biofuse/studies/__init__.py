"""The demo, MedMNIST+, ImageNet, and one's own data sets."""
