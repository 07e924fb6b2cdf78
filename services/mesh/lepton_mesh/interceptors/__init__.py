"""What surrounds every call of the mesh, served or made."""
