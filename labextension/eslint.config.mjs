import tseslint from 'typescript-eslint';

export default tseslint.config(
  { ignores: ['lib', 'style', 'node_modules', 'coverage', '*.js', '*.mjs'] },
  ...tseslint.configs.strictTypeChecked,
  ...tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: {
      parserOptions: { project: './tsconfig.test.json', tsconfigRootDir: import.meta.dirname }
    },
    rules: {
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/naming-convention': [
        'error',
        { selector: 'interface', format: ['PascalCase'], custom: { regex: '^I[A-Z]', match: true } }
      ],
      // Numbers in sentences are plain.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      // `void f()` says that nobody waits.
      '@typescript-eslint/no-meaningless-void-operator': 'off',
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      curly: ['error', 'all'],
      eqeqeq: 'error',
      // Text of models and names of batches are text; nothing here writes HTML.
      'no-restricted-properties': [
        'error',
        { property: 'innerHTML', message: 'Text is shown as text.' },
        { property: 'outerHTML', message: 'Text is shown as text.' },
        { property: 'insertAdjacentHTML', message: 'Text is shown as text.' }
      ],
      'no-restricted-syntax': [
        'error',
        {
          selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']",
          message: 'Text is shown as text.'
        }
      ]
    }
  }
);
