SwaggerUIBundle({ url: "openapi.json", domNode: document.getElementById("docs"), tryItOutEnabled: true, validatorUrl: null });
