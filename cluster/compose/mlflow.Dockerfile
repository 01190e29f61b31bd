# The image and what `mlflow server` needs on PostgreSQL with logins; clients need neither.
FROM corrfractal:0.1.0
USER root
RUN pip install --no-cache-dir --disable-pip-version-check psycopg2-binary==2.9.13 Flask-WTF==1.3.0
USER 10001
