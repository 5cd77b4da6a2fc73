"""Any choice of bits, predicted and verified."""
