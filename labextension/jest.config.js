module.exports = {
  testEnvironment: 'jsdom',
  testMatch: ['<rootDir>/test/**/*.test.ts', '<rootDir>/test/**/*.test.tsx'],
  transform: {
    '\\.tsx?$': [
      'ts-jest',
      {
        tsconfig: {
          ...require('./tsconfig.test.json').compilerOptions,
          ...require('./tsconfig.json').compilerOptions,
          // tsc has looked at the types by then, and Node reads CommonJS.
          rootDir: '.',
          types: ['jest'],
          module: 'commonjs',
          moduleResolution: 'node10',
          isolatedModules: true
        },
        diagnostics: false
      }
    ]
  }
};
