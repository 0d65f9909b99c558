"""Operations that a profile says must be special: attention dispatch and convolution."""
