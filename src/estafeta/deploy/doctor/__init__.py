"""`estafeta doctor`: is everything there that training needs, on this machine or on AWS?"""
