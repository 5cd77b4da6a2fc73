"""All layers of a model beside each other."""
