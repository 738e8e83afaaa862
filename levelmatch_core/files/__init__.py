"""What a file may be and how it is kept: regular, durable, with its modes; tables as text. No data of astronomy."""
