"""Files of tokens: encode images into them, decode them into pictures."""
