"""Operations with more than one implementation; each folder holds a plain reference and what is faster."""
