"""Images to bytes and back: the LDR decoder (`ldr`), its format readers, colour conversion, and the EXR encoder."""
