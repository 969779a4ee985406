// Shows the OpenAPI document with Swagger UI. A token that the user enters stays in the memory of the page.
(() => {
  const root = document.documentElement;
  const container = document.getElementById("api-docs");

  // Swagger UI's dark theme is a class; theme.js sets an attribute.
  function applyTheme() {
    root.classList.toggle("dark-mode", root.getAttribute("data-bs-theme") === "dark");
  }
  applyTheme();
  new MutationObserver(applyTheme).observe(root, { attributeFilter: ["data-bs-theme"] });

  // Swagger UI leaves some controls without a name for screen readers, and examples that scroll without the focus.
  function completeControls() {
    container.querySelectorAll("pre").forEach((example) => { example.tabIndex = 0; });
    const controls = container.querySelectorAll("input:not([type=checkbox]), select, textarea, .close-modal");
    controls.forEach((control) => {
      if (control.ariaLabel || control.labels?.length) return;
      if (control.matches(".close-modal")) control.ariaLabel = "Close";
      else if (control.matches(".body-param__text")) control.ariaLabel = "Body";
      else control.ariaLabel = control.closest("[data-param-name]")?.dataset.paramName ?? null;
    });
  }
  new MutationObserver(completeControls).observe(container, { childList: true, subtree: true });

  SwaggerUIBundle({
    url: container.dataset.document,
    domNode: container,
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    validatorUrl: null, // by default a server of swagger.io is asked to validate the document
    plugins: [({ React }) => ({
      components: {
        InfoContainer: () => null, // the page has its own title and introduction
        DeepLink: ({ text }) => React.createElement("span", null, text), // by default a link inside a button
      },
    })],
  });
})();
