"""The parts an autoencoder is composed of, one file a slot."""
