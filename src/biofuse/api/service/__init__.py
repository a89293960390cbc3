"""The service that `biofuse serve` runs: its application, what requests pass, what they are answered."""
